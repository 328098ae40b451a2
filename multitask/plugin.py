"""The Axolotl plugin of every run, under the name by which ``axolotl.yaml`` loads it."""

from multitask.runners.axolotl.plugin import MultitaskPlugin as MultitaskPlugin
