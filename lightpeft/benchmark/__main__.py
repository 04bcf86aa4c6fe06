"""Run the benchmark from a shell: python -m lightpeft.benchmark"""

import sys
import warnings

from lightpeft.benchmark.run import main
from lightpeft.core.errors import LightPeftError

if __name__ == "__main__":
    # peft 0.21 asks transformers 5.23 for a name that is on its way out; nobody here can mend it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    try:
        main(sys.argv[1:])
    except LightPeftError as error:
        sys.exit(f"error: {error}")
