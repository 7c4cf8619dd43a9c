"""The sessions of exchanges: facts alone, a module each, made from exchange_calendars 4.13.2 (Apache-2.0)."""
