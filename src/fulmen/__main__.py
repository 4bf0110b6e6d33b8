"""`python -m fulmen` is the `fulmen` command."""

import sys

from fulmen.tools.command import main

sys.exit(main())
