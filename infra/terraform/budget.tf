# An account that has spent too much should not go blind. AWS Budgets can do three things by itself: attach an IAM policy to
# roles and users, attach a service control policy to accounts, and stop machines. It does the first and the last with a role of
# the account, and that role is what is held back here: an explicit deny wins over whatever else it is allowed, so it can neither
# switch off an alarm, a rule, the topic or the trail, nor take the writer's rights away, nor loosen this policy.
#
# What that does not do:
#   - A service control policy comes from the organisation's management account, with a role there that no policy of this
#     account reaches. Two things remain. The alarms go on all the same, because services publish them and no role does,
#     and service control policies do not bind services. And the writer's uploads, if such a policy forbids them, stop:
#     `silence` tells. In the organisation, leave this account out of such actions; guard.json can be attached to it as a
#     service control policy of its own, with an exception for those who break glass.
#   - A budget action can stop the bastion where it runs as a machine of this account. Again `silence` tells.
#   - Somebody who may change IAM freely can detach the policy again. `silenced` tells of what comes after it.

locals {
  budget_actions = [for role in var.budget_action_roles : "arn:${local.partition}:iam::${local.account}:role/${role}"]

  guard = templatefile("${local.policies}/guard.json", merge(local.place, {
    account = local.account
    name    = var.name
    # A policy must name something, also where there is no such role.
    budget_actions = join("\", \"", length(local.budget_actions) > 0 ? local.budget_actions : ["arn:${local.partition}:iam::${local.account}:role/${var.name}-*"])
  }))
}

resource "aws_iam_policy" "guard" {
  name        = "${var.name}-guard"
  description = "Keeps whoever has it from silencing the alarms about ${var.bucket}, whatever else they may"
  policy      = local.guard
  tags        = var.tags
}

resource "aws_iam_role_policy_attachment" "guard" {
  for_each   = var.budget_action_roles
  role       = each.value
  policy_arn = aws_iam_policy.guard.arn
}
