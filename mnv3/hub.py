"""`python -m mnv3.hub push FOLDER user/repo`: the command of mnv3.checkpoints.publish."""

import sys

from .checkpoints.publish import main

if __name__ == "__main__":
    sys.exit(main())
