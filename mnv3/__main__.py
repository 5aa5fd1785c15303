"""`python -m mnv3`: the `mnv3` command."""

import sys

from .cli import main

sys.exit(main())
