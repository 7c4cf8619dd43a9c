import time
from refresh_pipeline_tests.worlds import *
def test_x(world):
    t=time.time()
    a=world.tables(); print(time.time()-t, {k:len(v) for k,v in a.items()})
    r=world.run(); print(time.time()-t)
    print(metadata_of(r,"raw_candles")["BTC/USD|m15"], metadata_of(r,"enhanced_candles")["BTC/USD|m15"], verdicts_of(r), failures_of(r))
    r=world.run("publish"); print(metadata_of(r,"uploads")["BTC/USD|m15"], verdicts_of(r))
    b=world.tables()
    for k in a:
        if a[k]!=b[k]: print("differs",k, a[k][0],b[k][0])
    print(command("status","--now",NOW.isoformat()).output)
    print(time.time()-t)
def test_y(new_world):
    new_world.candle_file("BTC/USD|m15").unlink()
    r=new_world.run(); print(verdicts_of(r), metadata_of(r,"raw_candles"))
def test_z(new_world):
    r=new_world.run(); print(failures_of(r))
    for e in r.all_events:
        if e.is_failure: print(e.event_specific_data, e.message)
