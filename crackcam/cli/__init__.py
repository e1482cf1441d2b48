"""The command line: flags, messages, exit codes, what is printed."""

import sys

from crackcam._engine import check_python

try:
    check_python()
except ImportError as error:  # the modules beside this one could not say it: they are not understood
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(2) from None
