"""A provider on loopback: real wire formats, scripted answers, scripted faults.

with Simulator() as sim:
    sim.script(Fault.status(500), Reply(text="Trout."))
    litellm.completion("openai/gpt-4o", ..., api_base=sim.api_base("openai"), api_key="sk-any")

Standard library only; nothing here knows LiteLLM or llmbridge.
"""

from .server import Simulator
from .steps import Fault, Reply, Step
from .wire import Seen


__all__ = ["Fault", "Reply", "Seen", "Simulator", "Step"]
