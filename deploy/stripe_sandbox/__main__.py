"""python -m deploy.stripe_sandbox"""

import logging
import signal
import sys
import threading
from types import FrameType

from pydantic import ValidationError

from .server import SandboxServer
from .settings import Settings


def main() -> int:
    """Run until SIGTERM or Ctrl-C; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        settings = Settings()
        server = SandboxServer(settings)
    except ValidationError as error:
        names = ", ".join(f"SANDBOX_{str(item['loc'][0]).upper()}" for item in error.errors())
        print(f"The Stripe sandbox cannot start: {names} is not valid.", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"The Stripe sandbox cannot start: {error}. Is it running already, or is"
              " SANDBOX_PORT or SANDBOX_DATA wrong?", file=sys.stderr)  # fmt: skip
        return 2

    def stop(_signal: int, _frame: FrameType | None) -> None:
        threading.Thread(target=server.stop).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    logging.getLogger("stripe_sandbox").info("Stripe sandbox on %s, test mode only", server.url)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
