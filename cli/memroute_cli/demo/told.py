"""What the demo says beside its tables: its steps, and what to try in a cluster that is kept."""

import textwrap


def step_lines(seconds: float, text: str, width: int) -> list[str]:
    """A step in lines of ``width`` characters: when, what, the rest below the first word of it.

    A word that is longer, such as a URL, is not broken.
    """
    head = f"{seconds:6.1f} s  "
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def kept_text(
    *, kubeconfig: str, operator_url: str, router_url: str, ops_url: str, has_gateway: bool = False
) -> str:
    """Where everything is, what to paste into another terminal, and what to try there.

    ``has_gateway``: ``router_url`` is Envoy's, and the rest is of the picker that it asks.
    """
    entry = f"{'gateway' if has_gateway else 'router':13}{router_url}/v1"
    entry += " (Envoy; all below is the picker's)" if has_gateway else ""
    return f"""{entry}
             any API key; models chat, draft, large
live map     {ops_url}/map/
decisions    {ops_url}/debug/decisions
who waits    {ops_url}/debug/queue
metrics      {ops_url}/metrics
             {operator_url}/metrics

In another terminal, in this folder:
  export PATH=$PWD/.venv/bin:$PATH
  export KUBECONFIG={kubeconfig}
  export ROUTER={router_url} OPERATIONS={ops_url}
and then try:
  memroute top
  memroute explain large
  kubectl scale mdep/draft --replicas=3
  curl $ROUTER/v1/chat/completions -H 'content-type: application/json' -d \\
  '{{"model":"chat","messages":[{{"role":"user","content":"hi"}}],"max_tokens":20}}'
  memroute decisions --router $OPERATIONS

Ctrl-C here stops everything and leaves nothing behind."""
