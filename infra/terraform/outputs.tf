output "casemate_toml" {
  description = "For casemate.toml on each bastion."
  value = join("\n", compact([
    "[[vault.s3]]",
    "name = \"${var.name}\"",
    "bucket = \"${aws_s3_bucket.vault.bucket}\"",
    var.prefix == "" ? "" : "prefix = \"${var.prefix}\"",
    "region = \"${local.region}\"",
    "owner = \"${local.account}\"",
    "mode = \"${lower(var.mode)}\"",
    "storage_class = \"${var.storage_class}\"",
    var.kms_key_arn == null ? "" : "encryption = \"aws:kms\"\nkms_key = \"${var.kms_key_arn}\"",
    "profile = \"writer\"",
    "canary_profile = \"canary\"",
  ]))
}

output "aws_config" {
  description = "For the file that AWS_CONFIG_FILE names in the daemon's environment. On a machine of EC2; elsewhere add a [profile bastion] with the keys of one of writer_principals, and write source_profile = bastion in place of credential_source."
  value       = <<-EOT
    [profile writer]
    role_arn = ${aws_iam_role.writer.arn}
    credential_source = Ec2InstanceMetadata
    region = ${local.region}

    [profile canary]
    role_arn = ${aws_iam_role.canary.arn}
    credential_source = Ec2InstanceMetadata
    region = ${local.region}
  EOT
}

output "reader_role_arn" {
  description = "The role for casemate-replay: verify, ls, play."
  value       = aws_iam_role.reader.arn
}

output "keeper_role_arn" {
  description = "The role for casemate-replay enforce."
  value       = aws_iam_role.keeper.arn
}

output "alarm_topic_arn" {
  description = "Where alarms are told, for more subscribers than alarm_emails."
  value       = aws_sns_topic.alarms.arn
}

output "guard_policy" {
  description = "What keeps a role from silencing the alarms: for further roles, or as a service control policy."
  value       = local.guard
}
