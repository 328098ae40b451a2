"""The Hugging Face Hub: a run's model, with a card, in a repository of the user's."""

from multitask.hub.push import Pushed, PushSettings, push

__all__ = ["PushSettings", "Pushed", "push"]
