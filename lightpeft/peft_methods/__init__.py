"""PEFT methods that peft lacks."""

# First of all, since peft imports modules of this folder in turn (see lightpeft.registration),
# which must not be half imported then.
import peft  # noqa: F401
