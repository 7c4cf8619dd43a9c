"""How people come in: the `refresh` command, its tables and the process that `refresh up` turns into."""


def main() -> None:
    """The console script."""
    # A wrong request is answered before anything heavy is imported; so is the package itself.
    from refresh_pipeline.cli.app import app
    from refresh_pipeline.settings import keep_files_private

    keep_files_private()
    app()
