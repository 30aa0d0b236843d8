"""What happens to one request, from its first byte to its account.

``lifecycle.py`` is the page to read first, ``phases.py`` says what can happen when.
"""
