"""Starts the app: `python app.py`, and what a Space runs. The app is in mnv3/web."""

import os
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no network at start; read when gradio is imported

from mnv3.web.app import build_demo, main

__all__ = ["build_demo", "main"]

if __name__ == "__main__":
    sys.exit(main())
