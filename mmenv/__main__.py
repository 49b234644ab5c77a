"""``python -m mmenv``."""

from mmenv.cli import main

raise SystemExit(main())
