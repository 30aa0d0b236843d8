"""The messages of Envoy's external processing (``envoy.service.ext_proc.v3``), by hand.

Only what a picker needs of them, as bytes: objects for every header field would cost more than the
decision. The field numbers are those of Envoy's API; the suite in ``tests/picker_conformance`` and
the unit tests hold them against the generated classes of ``xds-protos``.
"""
