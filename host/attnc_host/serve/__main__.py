"""`python -m attnc_host.serve`."""

import sys

from attnc_host.serve.command import main

sys.exit(main())
