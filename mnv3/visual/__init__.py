"""Drawing: arrays to bitmaps, SVG plots and charts."""
