"""Where scans come from: a BIDS tree is the one contract."""
