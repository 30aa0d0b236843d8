"""Other engines' command lines, starts and pages in front of the simulated engine.

| face | flags | what it allocates | what it answers beside the OpenAI API |
| --- | --- | --- | --- |
| ``sglang`` | SGLang's | weights, a pool by share or by tokens | ``/ready``, ``/v1/loads``, … |
| ``llama_cpp`` | llama-server's | a file, slots, a buffer | ``/slots``, ``/props`` |

An unknown flag ends the program, as it does the engine: what the operator writes is tried by this.
"""
