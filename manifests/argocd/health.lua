-- Health of a FederatedTrainingJob for Argo CD, from the conditions that the operator writes.
-- In the ConfigMap argocd-cm: resource.customizations.health.photon.dev_FederatedTrainingJob
local answer = { status = "Progressing", message = "The operator has not seen this job yet" }
local status = obj.status
if status == nil or status.conditions == nil then
  return answer
end
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
  and status.observedGeneration < obj.metadata.generation then
  answer.message = "The operator has not seen the last edit yet"
  return answer
end
local held = {}
for _, condition in ipairs(status.conditions) do
  if condition.status == "True" then
    held[condition.type] = condition
  end
end
local found = held.Stalled or held.Failed
if found ~= nil then
  answer.status = "Degraded"
elseif held.Suspended ~= nil then
  answer.status, found = "Suspended", held.Suspended
elseif held.Complete ~= nil or held.Running ~= nil then
  answer.status, found = "Healthy", held.Complete or held.Running
else
  found = held.Pending
end
if found ~= nil then
  answer.message = found.reason
  if found.message ~= nil and found.message ~= "" then
    answer.message = found.reason .. ": " .. found.message
  end
end
return answer
