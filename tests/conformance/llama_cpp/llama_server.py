"""llama.cpp's server in a process of its own, from its wheel: ``llama_server.py PORT FLAG…``.

The wheel takes attributes where the program takes flags; these are the same values.
"""

import sys
import threading

import xllamacpp

ATTRIBUTES = {
    "--ctx-size": ("n_ctx", int),
    "--parallel": ("n_parallel", int),
    "--ubatch-size": ("n_ubatch", int),
    "--n-gpu-layers": ("n_gpu_layers", int),
    "--cache-ram": ("cache_ram_mib", int),
    "--flash-attn": ("flash_attn_type", lambda text: {"off": 0, "on": 1, "auto": -1}[text]),
    "--fit": ("fit_params", lambda text: text == "on"),
    "--alias": ("model_alias", lambda text: {text}),
}
SWITCHES = {"--swa-full": "swa_full", "--metrics": "endpoint_metrics"}


def main(port, flags):
    """Serve until killed."""
    parameters = xllamacpp.CommonParams()
    parameters.port = port
    parameters.verbosity = 4  # its sizes are in its log from here on
    given = iter(flags)
    for flag in given:
        if flag in SWITCHES:
            setattr(parameters, SWITCHES[flag], True)
        elif flag == "--model":
            parameters.model.path = next(given)
        elif flag in {"--host", "--port"}:
            next(given)
        else:
            name, read = ATTRIBUTES[flag]
            setattr(parameters, name, read(next(given)))
    server = xllamacpp.Server(parameters)
    sys.stderr.write(f"listening on {server.listening_address}\n")
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
