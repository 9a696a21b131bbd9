"""Celery's worker and Beat, and Flower, with what `celery -A config` has for them: `python -m config worker -Q io`.

That program also imports its shell and, in every process, Flower: 10 MB that nobody uses here.
"""

import os
import sys
from importlib import import_module

import click
from celery import Celery
from celery.bin.base import CLIContext

from config.local.environment import set_environment
from config.start import refusing_in_words

COMMANDS = {"worker": "celery.bin.worker", "beat": "celery.bin.beat", "flower": "config.flower_site"}


class Programs(click.Group):
    """Celery's own commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        with refusing_in_words():
            command: click.Command = getattr(import_module(COMMANDS[name]), name)
            return command


@click.group(cls=Programs, help=__doc__)
@click.pass_context
def main(ctx: click.Context) -> None:
    app = without_django() if ctx.invoked_subcommand == "flower" else with_django()
    ctx.obj = CLIContext(app=app, no_color=False, workdir=None, quiet=True)


def with_django() -> Celery:
    import config

    app: Celery = config.app
    return app


def without_django() -> Celery:
    """The app without its tasks: Flower knows them from what the workers say over the broker."""
    set_environment()
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)  # It makes Celery set Django up.
    with refusing_in_words():
        from config.celery import app

    return app


if __name__ == "__main__":
    # A worker that restarts on SIGHUP hands this to Python: a path would not find the packages beside ours.
    sys.argv[:1] = ["-m", "config"]
    main(sys.argv[2:], prog_name="python -m config", auto_envvar_prefix="CELERY")
