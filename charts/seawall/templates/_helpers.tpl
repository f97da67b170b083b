{{/* The name of all objects: 50 characters, so that there is room for suffixes. */}}
{{- define "seawall.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- printf "%s-operator" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s-operator" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* NetworkPolicies of clusters let the operator in by its name: it is the same in all releases. */}}
{{- define "seawall.selectorLabels" -}}
app.kubernetes.io/name: seawall-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "seawall.labels" -}}
{{ include "seawall.selectorLabels" . }}
app.kubernetes.io/part-of: seawall
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "seawall.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "seawall.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* A repository with the registry in front. Takes (dict "root" $ "repository" ...). */}}
{{- define "seawall.repository" -}}
{{- with .root.Values.imageRegistry }}{{ trimSuffix "/" . }}/{{ end }}{{ .repository -}}
{{- end -}}

{{- define "seawall.operatorImage" -}}
{{- $repository := include "seawall.repository" (dict "root" . "repository" .Values.image.repository) -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "seawall.nodeImage" -}}
{{- $image := .Values.clusterImages.seawall -}}
{{- $repository := include "seawall.repository" (dict "root" . "repository" $image.repository) -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}

{{/* The image of one major version. Takes (dict "root" $ "major" 17). */}}
{{- define "seawall.computeImage" -}}
{{- $image := .root.Values.clusterImages.compute -}}
{{- $major := toString .major -}}
{{- if hasKey $image.overrides $major -}}
{{- get $image.overrides $major -}}
{{- else -}}
{{- $repository := include "seawall.repository" (dict "root" .root "repository" $image.repository) -}}
{{- printf "%s:%s-pg%s" $repository (default .root.Chart.AppVersion $image.tag) $major -}}
{{- end -}}
{{- end -}}

{{/* All of them, as JSON. */}}
{{- define "seawall.computeImages" -}}
{{- $images := dict -}}
{{- range .Values.clusterImages.compute.majors -}}
{{- $_ := set $images (toString .) (include "seawall.computeImage" (dict "root" $ "major" .)) -}}
{{- end -}}
{{- toJson $images -}}
{{- end -}}

{{/* What the operator may do in a namespace of clusters, or in all. It deletes what it has made, and
never a PostgresCluster. `update` is missing on purpose: it applies, which is a patch. */}}
{{- define "seawall.clusterRules" -}}
- apiGroups: [seawall.dev]
  resources: [postgresclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [seawall.dev]
  resources: [postgresclusters/status]
  verbs: [get, patch]
- apiGroups: [seawall.dev] # owner references that block a deletion
  resources: [postgresclusters/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods, persistentvolumeclaims, services, secrets, configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [apps] # gateways
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
{{- end -}}
