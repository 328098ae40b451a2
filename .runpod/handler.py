"""The serverless worker's start, where RunPod's Hub looks for it."""

import sys

from multitask.machine.serverless import start

if __name__ == "__main__":
    sys.exit(start())
