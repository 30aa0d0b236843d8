{{/* What each program may do: docs/adr/0044-releases-side-by-side.md. */}}
{{- define "memroute.operator.reads" -}}
# Pods, nodes and devices of the whole cluster, whatever the scope: a device is taken, whoever has it.
- apiGroups: [memroute.dev]
  resources: [modeldeployments]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods, nodes]
  verbs: [list, watch]
# What DRA drivers publish of their devices, and which of them are taken.
- apiGroups: [resource.k8s.io]
  resources: [resourceslices, resourceclaims]
  verbs: [list]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list]
# What a replica is worth beside others.
- apiGroups: [scheduling.k8s.io]
  resources: [priorityclasses]
  verbs: [list]
# kopf finds out by these which resources there are.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [list, watch]
{{- end }}
{{- define "memroute.operator.writes" -}}
- apiGroups: [memroute.dev]
  resources: [modeldeployments/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [create, patch, delete]
# One for each ModelDeployment with several replicas: drains take one replica at a time.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, delete]
# Those about a pod that is not ready are read, to say why.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- if eq (include "memroute.leadsGateways" .) "true" }}
{{ include "memroute.operator.gateways" . }}
{{- end }}
{{- end }}
{{- define "memroute.operator.gateways" -}}
# What leads gateways to the picker, where spec.routing.gateway or a pool's label asks for it.
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- define "memroute.operator.own" -}}
# The Lease that says which operator writes.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [memroute-operator]
  verbs: [get, update]
# Which namespaces may serve which names, and how much HBM they may hold, where an administrator
# says so.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [memroute-served-names, memroute-hbm-quotas]
  verbs: [get]
# What engines have measured of themselves.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [memroute-calibrations]
  verbs: [get, patch]
# What it has read of devices and routers, for `memroute top` and the routers' live map.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [memroute-fleet, memroute-map]
  verbs: [patch]
# Which nodes have which weights.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [memroute-weights]
  verbs: [get, patch]
{{- end }}
{{- define "memroute.operator.leases" -}}
# What kubelets renew: it tells one node that is lost from an outage of all.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [list]
{{- end }}
{{- define "memroute.router.reads" -}}
- apiGroups: [memroute.dev]
  resources: [modeldeployments]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end }}
{{- define "memroute.router.own" -}}
# Nodes and devices of its live map, as the operator writes them.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [memroute-map]
  verbs: [get]
{{- if and .Values.scope.namespaces (eq (include "memroute.hasPeers" .) "true") }}
{{ include "memroute.router.peers" . }}
{{- end }}
{{- end }}
{{- define "memroute.router.peers" -}}
# The other routers.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end }}
{{- define "memroute.picker.reads" -}}
{{ include "memroute.router.reads" . }}
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [list, watch]
# Priorities of requests, in either group that the kind has had.
- apiGroups: [llm-d.ai, inference.networking.x-k8s.io]
  resources: [inferenceobjectives]
  verbs: [list, watch]
{{- end }}
