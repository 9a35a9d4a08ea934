"""``python -m faltung demo``: see `faltung.demo`."""

import sys

from .demo import main

sys.exit(main())
