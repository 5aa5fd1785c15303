"""One view a tab: data in, HTML out."""
