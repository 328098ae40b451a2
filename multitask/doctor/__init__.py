"""What a machine lacks before it is paid for: environment, logins, GPUs, disk, and the run."""

from multitask.doctor.examine import Examination, examine

__all__ = ["Examination", "examine"]
