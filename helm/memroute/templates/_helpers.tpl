{{- define "memroute.labels" -}}
app.kubernetes.io/name: memroute
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "memroute.selector" -}}
app.kubernetes.io/name: memroute
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "memroute.image" -}}
{{ .root.Values.image.prefix }}/{{ .component }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "memroute.podSettings" -}}
serviceAccountName: memroute-{{ .component }}
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "memroute.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "memroute.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: memroute-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "memroute.labels" . | nindent 4 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: memroute-{{ .component }}
  labels: {{- include "memroute.labels" . | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: memroute-{{ .component }}}
subjects:
  - {kind: ServiceAccount, name: memroute-{{ .component }}, namespace: {{ .root.Release.Namespace }}}
{{- end }}
