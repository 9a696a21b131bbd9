"""`python -m config.load_code` imports what any process of Muster does; exits with what is wrong, in short."""

import sys
import sysconfig
import traceback

# Where Python and installed packages are: nothing that somebody edits.
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def main() -> None:
    try:
        import config.wsgi  # noqa: F401
    # Your code may raise anything when it is imported. A refused setting has ended this with its sentence already.
    except Exception as error:
        sys.exit(shortened(error))


def shortened(error: BaseException) -> str:
    """The traceback without the frames of Python and of installed packages."""
    trace = traceback.TracebackException.from_exception(error)
    trace.stack[:] = [frame for frame in trace.stack if not frame.filename.startswith((*LIBRARIES, "<frozen "))]
    return "".join(trace.format(chain=False)).rstrip()


if __name__ == "__main__":
    main()
