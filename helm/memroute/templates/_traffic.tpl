{{/*
A program on the way of requests, the router or the picker: its account, its budget, its Deployment. Takes root,
component and values.
*/}}
{{- define "memroute.traffic" -}}
{{- $this := . -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $isPicker := eq .component "picker" -}}
{{- $portName := ternary "grpc" "http" $isPicker -}}
{{- $port := ternary $values.ports.grpc $values.ports.http $isPicker -}}
{{- $hasPeers := eq (include "memroute.looksForPeers" .) "true" -}}
{{- $peers := $values.peers -}}
{{- $keys := $values.keys -}}
{{- $engineKey := $values.engineKey -}}
{{- $tls := $values.tls -}}
{{ include "memroute.account" $this }}
{{- include "memroute.budget" $this }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "memroute.name" $this }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "memroute.labels" $this | nindent 4 }}
  {{- with include "memroute.annotations" (dict "root" $root "annotations" $values.annotations) }}{{ . | nindent 2 }}{{ end }}
spec:
  {{- if not ($values.autoscaling | default dict).enabled }}
  replicas: {{ $values.replicas }}
  {{- end }}
  selector:
    matchLabels: {{- include "memroute.selector" $this | nindent 6 }}
  template:
    metadata:
      labels: {{- include "memroute.podLabels" $this | nindent 8 }}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: {{ $values.ports.ops | quote }}
        {{- with merge (dict) $values.podAnnotations $root.Values.commonAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "memroute.podSettings" $this | nindent 6 }}
      {{- if kindIs "invalid" $values.terminationGracePeriodSeconds }}
      {{- $shutdown := kindIs "invalid" $values.settings.shutdownTimeoutSeconds | ternary 50 $values.settings.shutdownTimeoutSeconds }}
      terminationGracePeriodSeconds: {{ add (ceil $shutdown) 10 }}
      {{- else }}
      terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "memroute.image" $this }}
          imagePullPolicy: {{ $values.image.pullPolicy | default $root.Values.image.pullPolicy }}
          {{- if $isPicker }}
          command: [memroute-picker]
          {{- end }}
          args:
            - --host
            {{- if $hasPeers }}
            # Peers are heard on one address, in the family of the pod's.
            - $(POD_IP)
            {{- else }}
            - "*"
            {{- end }}
            - --router-name
            - $(POD_NAME)
            {{- if $isPicker }}
            - --inference-pools
            {{- else }}
            - --map-namespace
            - $(POD_NAMESPACE)
            {{- end }}
            {{- if ne (int $port) (ternary 9002 8000 $isPicker) }}
            - --port
            - {{ $port | quote }}
            {{- end }}
            {{- if ne (int $values.ports.ops) 8002 }}
            - --ops-port
            - {{ $values.ports.ops | quote }}
            {{- end }}
            {{- range $root.Values.scope.namespaces }}
            - --namespace
            - {{ . }}
            {{- end }}
            {{- if $hasPeers }}
            - --peer-selector
            - {{ include "memroute.peerSelector" $this | quote }}
            - --peer-namespace
            - {{ $root.Release.Namespace }}
            - --peer-port
            - {{ $peers.port | quote }}
            {{- if $peers.secretName }}
            - --peer-secret-file
            - /etc/memroute/peers/key
            {{- end }}
            {{- if not (kindIs "invalid" $peers.bytesPerSecond) }}
            - --peer-bytes-per-second
            - {{ include "memroute.number" $peers.bytesPerSecond | quote }}
            {{- end }}
            {{- end }}
            {{- if $keys.secretName }}
            - --keys
            - /etc/memroute/keys/{{ $keys.file }}
            {{- end }}
            {{- if $engineKey.secretName }}
            - --engine-key-file
            - /etc/memroute/engine-key/{{ $engineKey.file }}
            {{- end }}
            {{- if $tls.secretName }}
            - --tls-cert
            - /etc/memroute/tls/tls.crt
            - --tls-key
            - /etc/memroute/tls/tls.key
            {{- if $tls.requireClientCertificate }}
            - --tls-client-ca
            - /etc/memroute/tls/ca.crt
            {{- end }}
            {{- end }}
            {{- with include "memroute.flags" $values.settings }}{{ . | trim | nindent 12 }}{{ end }}
            {{- range $values.extraArgs }}
            - {{ . | quote }}
            {{- end }}
          env:
            - name: POD_NAME
              valueFrom: {fieldRef: {fieldPath: metadata.name}}
            - name: POD_NAMESPACE
              valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
            - name: POD_IP
              valueFrom: {fieldRef: {fieldPath: status.podIP}}
            {{- with $values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with $values.extraEnvFrom }}
          envFrom: {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            - {name: {{ $portName }}, containerPort: {{ $port }}}
            - {name: ops, containerPort: {{ $values.ports.ops }}}
            {{- if $hasPeers }}
            - {name: peers, containerPort: {{ $peers.port }}, protocol: UDP}
            {{- end }}
          # New requests may come until every proxy has heard that this pod is leaving.
          lifecycle: {preStop: {sleep: {seconds: 5}}}
          readinessProbe:
            httpGet: {path: /ready, port: ops}
            periodSeconds: 2
          livenessProbe:
            httpGet: {path: /health, port: ops}
            periodSeconds: 20
            timeoutSeconds: 5
          resources: {{- toYaml $values.resources | nindent 12 }}
          securityContext: {{- include "memroute.containerSecurity" $values.securityContext | nindent 12 }}
          {{- $hasKey := and $hasPeers $peers.secretName }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- if $hasKey }}
            - {name: peers, mountPath: /etc/memroute/peers, readOnly: true}
            {{- end }}
            {{- if $keys.secretName }}
            - {name: keys, mountPath: /etc/memroute/keys, readOnly: true}
            {{- end }}
            {{- if $engineKey.secretName }}
            - {name: engine-key, mountPath: /etc/memroute/engine-key, readOnly: true}
            {{- end }}
            {{- if $tls.secretName }}
            - {name: tls, mountPath: /etc/memroute/tls, readOnly: true}
            {{- end }}
            {{- with $values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 64Mi}
        {{- if $hasKey }}
        - {name: peers, secret: {secretName: {{ $peers.secretName }}}}
        {{- end }}
        {{- if $keys.secretName }}
        - {name: keys, secret: {secretName: {{ $keys.secretName }}}}
        {{- end }}
        {{- if $engineKey.secretName }}
        - {name: engine-key, secret: {secretName: {{ $engineKey.secretName }}}}
        {{- end }}
        {{- if $tls.secretName }}
        - {name: tls, secret: {secretName: {{ $tls.secretName }}}}
        {{- end }}
        {{- with $values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}
