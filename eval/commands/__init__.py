"""What the commands `fid`, `eval`, `stats` and `metrics` do; eval/cli.py has their options and imports this when called."""
