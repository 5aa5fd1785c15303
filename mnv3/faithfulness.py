"""`python -m mnv3.faithfulness --data FOLDER …`: the command of mnv3.explanation.faithfulness."""

import sys

from .explanation.faithfulness import main

if __name__ == "__main__":
    sys.exit(main())
