{{- define "photon.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Selector labels of a Service or a Deployment: (dict "root" $ "component" "operator"). Never changes. */}}
{{- define "photon.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "photon.labels" -}}
{{ include "photon.selectorLabels" . }}
app.kubernetes.io/part-of: photon
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (dict "root" $ "image" .Values.operator.image) */}}
{{- define "photon.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.image.registry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .root.Chart.AppVersion .root.Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "photon.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (printf "%s-operator" (include "photon.fullname" .)) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.create is false: set serviceAccount.name to an existing ServiceAccount" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Namespaces in which jobs are expected, as JSON: {"names": [...]}. */}}
{{- define "photon.jobNamespaces" -}}
{{- dict "names" (.Values.watchNamespaces | default (list .Release.Namespace)) | toJson -}}
{{- end -}}

{{/* What the operator makes the NetworkPolicies of each job of, as JSON; empty if there are to be none. */}}
{{- define "photon.networkPolicy" -}}
{{- if .Values.networkPolicy.enabled -}}
{{- $policy := .Values.networkPolicy -}}
{{- $ports := list -}}
{{- range $policy.dns.ports -}}
{{- $ports = concat $ports (list (dict "protocol" "UDP" "port" .) (dict "protocol" "TCP" "port" .)) -}}
{{- end -}}
{{- $egress := list (dict "to" $policy.dns.to "ports" $ports) -}}
{{- if and $policy.storage.to $policy.storage.ports -}}
{{- $ports = list -}}
{{- range $policy.storage.ports -}}
{{- $ports = append $ports (dict "protocol" "TCP" "port" .) -}}
{{- end -}}
{{- $egress = append $egress (dict "to" $policy.storage.to "ports" $ports) -}}
{{- end -}}
{{- if .Values.seaweedfs.enabled -}}
{{- $store := list (include "photon.ownPods" (dict "root" . "component" "seaweedfs") | fromJson) -}}
{{- $egress = append $egress (dict "to" $store "ports" (list (dict "protocol" "TCP" "port" 8333))) -}}
{{- end -}}
{{- $metadata := list -}}
{{- range $policy.metadataAddresses -}}
{{- $metadata = append $metadata (dict "ipBlock" (dict "cidr" .)) -}}
{{- end -}}
{{- if $metadata -}}
{{- $egress = append $egress (dict "to" $metadata "ports" (list (dict "protocol" "TCP" "port" 80))) -}}
{{- end -}}
{{- $operator := include "photon.ownPods" (dict "root" . "component" "operator") | fromJson -}}
{{- $from := concat (list $operator) ($policy.aggregatorFrom | default list) -}}
{{- $egress = concat $egress ($policy.extraEgress | default list) -}}
{{- $before := $policy.namespaces | default .Values.watchNamespaces | default (list .Release.Namespace) -}}
{{- dict "egress" $egress "aggregatorFrom" $from "metricsFrom" ($policy.metricsFrom | default list) "namespaces" $before | toJson -}}
{{- end -}}
{{- end -}}

{{/* The peer that is a component of this release, as JSON; no pod of a job, whatever labels its patch adds. */}}
{{- define "photon.ownPods" -}}
{{- $namespace := dict "matchLabels" (dict "kubernetes.io/metadata.name" .root.Release.Namespace) -}}
{{- $none := list (dict "key" "photon.dev/job" "operator" "DoesNotExist") -}}
{{- $pods := dict "matchLabels" (include "photon.selectorLabels" . | fromYaml) "matchExpressions" $none -}}
{{- dict "namespaceSelector" $namespace "podSelector" $pods | toJson -}}
{{- end -}}

{{- define "photon.caConfigMap" -}}
{{- if .Values.ca.existingConfigMap -}}
{{- .Values.ca.existingConfigMap -}}
{{- else if .Values.ca.bundle -}}
{{- printf "%s-ca" (include "photon.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "photon.storeSecret" -}}
{{- default (printf "%s-seaweedfs" (include "photon.fullname" .)) .Values.seaweedfs.existingSecret -}}
{{- end -}}

{{/* The environment of all job pods, as JSON. Cluster-internal hosts always bypass the proxy. */}}
{{- define "photon.childEnv" -}}
{{- $env := dict -}}
{{- if or .Values.proxy.https .Values.proxy.http -}}
{{- $direct := list "localhost" "127.0.0.1" ".svc" ".svc.cluster.local" -}}
{{- with .Values.proxy.noProxy -}}
{{- $direct = concat (splitList "," .) $direct -}}
{{- end -}}
{{- $variables := dict "HTTPS_PROXY" .Values.proxy.https "HTTP_PROXY" .Values.proxy.http "NO_PROXY" (join "," $direct) -}}
{{- range $name, $value := $variables -}}
{{- if $value -}}
{{- $env = merge $env (dict $name $value (lower $name) $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .Values.jobs.env -}}
{{- $_ := set $env $name (toString $value) -}}
{{- end -}}
{{- $env | toJson -}}
{{- end -}}

{{/* The annotations of an object, if any: (dict "root" $ "own" MAP), own optional. */}}
{{- define "photon.annotations" -}}
{{- with merge (dict) (default (dict) .own) .root.Values.commonAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Whether the cluster is OpenShift, which assigns each namespace its users and groups and refuses others. */}}
{{- define "photon.openshift" -}}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1" -}}true{{- end -}}
{{- end -}}

{{- define "photon.podSecurityContext" -}}
{{- $context := .Values.podSecurityContext -}}
{{- if include "photon.openshift" . -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "photon.containerSecurityContext" -}}
{{- toYaml .Values.containerSecurityContext -}}
{{- end -}}

{{/* What the operator gives every job pod, as JSON. Keys are sorted, so equal values render equally. */}}
{{- define "photon.jobDefaults" -}}
{{- $jobs := .Values.jobs -}}
{{- $user := $jobs.securityContext -}}
{{- if and (include "photon.openshift" .) (eq (toJson $user) (toJson (dict "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001))) -}}
{{- $user = dict -}}
{{- end -}}
{{- $all := pick $jobs "extraEnv" "extraEnvFrom" "nodeSelector" "tolerations" "priorityClassName" "labels" "annotations" "inheritedMetadata" "resources" "podTemplatePatch" -}}
{{- $found := dict "securityContext" $user "podSecurity" $jobs.podSecurity "memoryByModel" $jobs.memoryByModel -}}
{{- range $name, $value := $all -}}
{{- if $value -}}
{{- $_ := set $found $name $value -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "photon.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}
