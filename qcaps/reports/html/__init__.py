"""Reports as pages: one file each, without a network, readable in light, in dark and on paper."""
