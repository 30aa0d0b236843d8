{{/*
Most take a dict: root (the chart's context), component (operator, router, ...) and, for pods, values.
*/}}

{{/* The begin of the names of the release's objects. */}}
{{- define "memroute.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* The name of a component's objects. */}}
{{- define "memroute.name" -}}
{{ include "memroute.fullname" .root }}-{{ .component }}
{{- end }}

{{/* The same outside of the release's namespace, where releases of one name would meet. */}}
{{- define "memroute.clusterName" -}}
{{ include "memroute.name" . }}-{{ .root.Release.Namespace }}
{{- end }}

{{- define "memroute.accountName" -}}
{{ .values.serviceAccount.name | default (include "memroute.name" .) }}
{{- end }}

{{- define "memroute.labels" -}}
app.kubernetes.io/name: memroute
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Annotations of an object: its own, in `annotations`, and those of all. */}}
{{- define "memroute.annotations" -}}
{{- with merge (dict) (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
The labels by which a component's pods are selected. A Deployment of 0.1 has a selector without the release, which
nobody can change: where there is one, its selector is kept, so that the upgrade replaces no Deployment.
*/}}
{{- define "memroute.selector" -}}
app.kubernetes.io/name: memroute
app.kubernetes.io/component: {{ .component }}
{{- if ne (include "memroute.isOf01" .) "true" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}
{{- end }}

{{- define "memroute.isOf01" -}}
{{- $found := lookup "apps/v1" "Deployment" .root.Release.Namespace (include "memroute.name" .) -}}
{{- if $found -}}
{{- not (hasKey $found.spec.selector.matchLabels "app.kubernetes.io/instance") -}}
{{- else -}}
false
{{- end -}}
{{- end }}

{{- define "memroute.podLabels" -}}
app.kubernetes.io/name: memroute
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with merge (dict) (.values.podLabels | default dict) (.root.Values.commonLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The selector in one line, for a flag. */}}
{{- define "memroute.selectorText" -}}
{{- $parts := list -}}
{{- range $key, $value := include "memroute.selector" . | fromYaml -}}
{{- $parts = append $parts (printf "%s=%s" $key $value) -}}
{{- end -}}
{{ join "," $parts }}
{{- end }}

{{- define "memroute.image" -}}
{{- $own := (index .root.Values .component).image -}}
{{- $all := .root.Values.image -}}
{{- $name := $own.repository -}}
{{- with $own.registry | default $all.registry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}
{{- end -}}
{{- if $own.digest -}}
{{ $name }}@{{ $own.digest }}
{{- else -}}
{{ $name }}:{{ $own.tag | default $all.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* How many pods there may be at the least, to see whether they are several. */}}
{{- define "memroute.isSeveral" -}}
{{- $scaling := .values.autoscaling | default dict -}}
{{- if $scaling.enabled -}}true{{- else -}}{{ gt (int .values.replicas) 1 }}{{- end -}}
{{- end }}

{{/* Whether routers look for each other. */}}
{{- define "memroute.hasPeers" -}}
{{- include "memroute.looksForPeers" (dict "root" . "component" "router" "values" .Values.router) -}}
{{- end }}

{{/* Whether routers and pickers, which send to the same replicas, look for each other. They hear each other on one port, by one key. */}}
{{- define "memroute.peersAreOne" -}}
{{- $router := .Values.router -}}
{{- $picker := .Values.picker -}}
{{- $isEither := or (eq (toString $router.peers.enabled) "false") (eq (toString $picker.peers.enabled) "false") -}}
{{- $isAlike := and (eq (int $router.peers.port) (int $picker.peers.port)) (eq (toString $router.peers.secretName) (toString $picker.peers.secretName)) -}}
{{- and $router.enabled $picker.enabled (not $isEither) $isAlike -}}
{{- end }}

{{/* Whether the pods of a component look for each other, or for those of the other. */}}
{{- define "memroute.looksForPeers" -}}
{{- $enabled := .values.peers.enabled -}}
{{- $isNeeded := or (eq (include "memroute.isSeveral" .) "true") (eq (include "memroute.peersAreOne" .root) "true") -}}
{{- ternary $isNeeded $enabled (kindIs "invalid" $enabled) -}}
{{- end }}

{{/* By which labels they are found: both kinds, also where there is one alone, unless they cannot hear each other. */}}
{{- define "memroute.peerSelector" -}}
{{- $areBoth := and .root.Values.router.enabled .root.Values.picker.enabled -}}
{{- if and $areBoth (ne (include "memroute.peersAreOne" .root) "true") -}}
{{- include "memroute.selectorText" . -}}
{{- else -}}
{{- include "memroute.selectorText" . | replace (printf "component=%s" .component) "component in (picker,router)" -}}
{{- end -}}
{{- end }}

{{/* Whether the operator leads gateways to a picker: this release's, or one that a setting names. */}}
{{- define "memroute.leadsGateways" -}}
{{- or .Values.picker.enabled (not (kindIs "invalid" .Values.operator.settings.pickerSelector)) -}}
{{- end }}

{{/* The spec of a pod but for its containers and volumes. */}}
{{- define "memroute.podSettings" -}}
serviceAccountName: {{ include "memroute.accountName" . }}
enableServiceLinks: false
{{- include "memroute.pullSecrets" .root }}
securityContext: {{- include "memroute.podSecurity" .values.podSecurityContext | nindent 2 }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.affinity }}
affinity: {{- toYaml .values.affinity | nindent 2 }}
{{- else if eq (include "memroute.isSeveral" .) "true" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "memroute.selector" . | nindent 14 }}
{{- end }}
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- $own := dict "labelSelector" (dict "matchLabels" (include "memroute.selector" . | fromYaml)) }}
  {{- range .values.topologySpreadConstraints }}
  - {{- toYaml (merge (dict) . $own) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Secrets as {name: ...}, or as names alone. */}}
{{- define "memroute.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  {{- if kindIs "string" . }}
  - name: {{ . }}
  {{- else }}
  - name: {{ .name }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What Pod Security `restricted` asks of pods, and what somebody has put over it. */}}
{{- define "memroute.podSecurity" -}}
{{- $ours := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}{{- $ours = omit $ours $key -}}{{- else -}}{{- $_ := set $ours $key $value -}}{{- end -}}
{{- end -}}
{{ toYaml $ours }}
{{- end }}

{{/* The same of containers. */}}
{{- define "memroute.containerSecurity" -}}
{{- $ours := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}{{- $ours = omit $ours $key -}}{{- else -}}{{- $_ := set $ours $key $value -}}{{- end -}}
{{- end -}}
{{ toYaml $ours }}
{{- end }}

{{/* Settings as flags, one item of a list for each word; a setting that is null is the program's own default. */}}
{{- define "memroute.flags" -}}
{{- range $name, $value := . }}
{{- $flag := printf "--%s" (kebabcase $name) }}
{{- if kindIs "bool" $value }}
{{- if $value }}
- {{ $flag }}
{{- end }}
{{- else if kindIs "slice" $value }}
{{- range $value }}
- {{ $flag }}
- {{ . | toString | quote }}
{{- end }}
{{- else if not (kindIs "invalid" $value) }}
- {{ $flag }}
- {{ include "memroute.number" $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* A number as people write it: Helm makes 1e+06 of a million. */}}
{{- define "memroute.number" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end }}

{{/* The ServiceAccount of a component. */}}
{{- define "memroute.account" -}}
{{- if .values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "memroute.accountName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "memroute.labels" . | nindent 4 }}
  {{- with include "memroute.annotations" (dict "root" .root "annotations" .values.serviceAccount.annotations) }}{{ . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}

{{/*
A role and what binds it to the component's account. scope: "" for a ClusterRole, else the role's namespace; name and
rules (YAML) are the role's.
*/}}
{{- define "memroute.role" -}}
{{- $kind := ternary "Role" "ClusterRole" (ne .scope "") -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ .name }}
  {{- with .scope }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "memroute.labels" . | nindent 4 }}
  {{- with include "memroute.annotations" (dict "root" .root) }}{{ . | nindent 2 }}{{ end }}
rules: {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ .name }}
  {{- with .scope }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "memroute.labels" . | nindent 4 }}
  {{- with include "memroute.annotations" (dict "root" .root) }}{{ . | nindent 2 }}{{ end }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ .name }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "memroute.accountName" . }}, namespace: {{ .root.Release.Namespace }}}
{{- end }}

{{/* A budget for a component's pods, where there are several. */}}
{{- define "memroute.budget" -}}
{{- $budget := .values.podDisruptionBudget -}}
{{- if ternary (eq (include "memroute.isSeveral" .) "true") $budget.enabled (kindIs "invalid" $budget.enabled) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "memroute.name" . }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "memroute.labels" . | nindent 4 }}
  {{- with include "memroute.annotations" (dict "root" .root) }}{{ . | nindent 2 }}{{ end }}
spec:
  {{- if not (kindIs "invalid" $budget.minAvailable) }}
  minAvailable: {{ $budget.minAvailable }}
  {{- else }}
  maxUnavailable: {{ $budget.maxUnavailable }}
  {{- end }}
  selector:
    matchLabels: {{- include "memroute.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/*
Whether an object of the whole cluster that several releases would bring is this release's: "true" where there is none,
where it is this one's already, and where no release that is still there says that it is its own. Helm itself refuses to
take over what another release had, unless --take-ownership is said.
*/}}
{{- define "memroute.isOurs" -}}
{{- $found := lookup .apiVersion .kind "" .name -}}
{{- $owner := dict -}}
{{- if $found -}}
{{- $owner = $found.metadata.annotations | default dict -}}
{{- end -}}
{{- $release := get $owner "meta.helm.sh/release-name" | default .root.Release.Name -}}
{{- $namespace := get $owner "meta.helm.sh/release-namespace" | default .root.Release.Namespace -}}
{{- $isOurs := and (eq $release .root.Release.Name) (eq $namespace .root.Release.Namespace) -}}
{{- if not $isOurs -}}
{{- $isAlive := false -}}
{{- range (lookup "apps/v1" "Deployment" $namespace "").items -}}
{{- if eq (get (.metadata.annotations | default dict) "meta.helm.sh/release-name") $release -}}
{{- $isAlive = true -}}
{{- end -}}
{{- end -}}
{{- $isOurs = not $isAlive -}}
{{- end -}}
{{- $isOurs -}}
{{- end }}

{{/* Refuse what cannot be meant, with a sentence. */}}
{{- define "memroute.check" -}}
{{- if not (hasKey .Values "scope") -}}
{{- fail "memroute: these are the values of an older chart alone; say --reset-then-reuse-values instead of --reuse-values" -}}
{{- end -}}
{{- $say := "memroute: value %s is called %s now (docs/how-to/upgrade.md)" -}}
{{- range $was, $is := dict "operator.args" "operator.settings, or operator.extraArgs" "router.args" "router.settings, or router.extraArgs" "router.volumes" "router.extraVolumes" "router.volumeMounts" "router.extraVolumeMounts" "image.prefix" "image.registry, operator.image.repository, router.image.repository and fetch.image.repository" -}}
{{- $parts := splitList "." $was -}}
{{- if hasKey (index $.Values (first $parts)) (last $parts) -}}
{{- fail (printf $say $was $is) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.router.peers.enabled (not .Values.router.enabled) -}}
{{- fail "memroute: router.peers.enabled makes no sense with router.enabled=false" -}}
{{- end -}}
{{- if and .Values.picker.peers.enabled (not .Values.picker.enabled) -}}
{{- fail "memroute: picker.peers.enabled makes no sense with picker.enabled=false" -}}
{{- end -}}
{{- if and .Values.operator.enabled (not .Values.operator.leaderElection) (gt (int .Values.operator.replicas) 1) -}}
{{- fail "memroute: operator.replicas is above 1, and operator.leaderElection=false lets all of them write" -}}
{{- end -}}
{{- if and .Values.router.httpRoute.enabled (not .Values.router.httpRoute.parentRefs) -}}
{{- fail "memroute: router.httpRoute.parentRefs names no gateway" -}}
{{- end -}}
{{- if and (or .Values.router.ingress.enabled .Values.router.httpRoute.enabled) (not (and .Values.router.enabled .Values.router.service.enabled)) -}}
{{- fail "memroute: router.ingress and router.httpRoute need the router and its Service (router.service.enabled)" -}}
{{- end -}}
{{- end }}

{{/* Refuse a second operator in a namespace. */}}
{{- define "memroute.checkAlone" -}}
{{- range (lookup "apps/v1" "Deployment" .Release.Namespace "").items -}}
{{- $labels := .metadata.labels | default dict -}}
{{- $owner := get (.metadata.annotations | default dict) "meta.helm.sh/release-name" -}}
{{- if and $.Values.operator.enabled (eq (get $labels "app.kubernetes.io/name") "memroute") (eq (get $labels "app.kubernetes.io/component") "operator") $owner (ne $owner $.Release.Name) -}}
{{- fail (printf "memroute: namespace %s has the operator of release %s already, and two of one namespace share a Lease, so that one would do nothing: install into another namespace, or with operator.enabled=false" $.Release.Namespace $owner) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
Refuse namespaces of the scope that are not there, before anything is installed: Helm would stop half-way, at the first Role.
The release's own may be made by --create-namespace, after this was read.
*/}}
{{- define "memroute.checkScope" -}}
{{- if and .Values.clusterChecks .Values.scope.namespaces (lookup "v1" "Namespace" "" "kube-system") -}}
{{- $missing := list -}}
{{- range .Values.scope.namespaces -}}
{{- $found := lookup "v1" "Namespace" "" . -}}
{{- if and $found $found.metadata.deletionTimestamp -}}
{{- fail (printf "memroute: namespace %s of scope.namespaces is being deleted: leave it out, or wait until it has gone and make it anew (kubectl create namespace %s)" . .) -}}
{{- end -}}
{{- if and (not $found) (ne . $.Release.Namespace) -}}
{{- $missing = append $missing . -}}
{{- end -}}
{{- end -}}
{{- if $missing -}}
{{- $commands := list -}}
{{- range $missing -}}{{- $commands = append $commands (printf "kubectl create namespace %s" .) -}}{{- end -}}
{{- fail (printf "memroute: the cluster has no namespace %s, and scope.namespaces names it; nothing was installed. Make it first: %s" (join ", " $missing) (join " && " $commands)) -}}
{{- end -}}
{{- end -}}
{{- end }}
