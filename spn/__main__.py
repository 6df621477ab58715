"""`python -m spn` is `spn`."""

import sys

from spn.cli import main

sys.exit(main())
