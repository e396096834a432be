# The bucket: locked, versioned, private, and nobody's to change but those who break glass.

data "aws_partition" "here" {}
data "aws_region" "here" {}
data "aws_caller_identity" "here" {}
data "aws_iam_session_context" "applying" {
  arn = data.aws_caller_identity.here.arn
}

locals {
  partition = data.aws_partition.here.partition
  region    = data.aws_region.here.region
  account   = data.aws_caller_identity.here.account_id

  # The policies are files of their own, so that the tests can hold them against what Casemate asks for. Each is JSON as it
  # lies there; a list takes the place of one string in it.
  policies = "${path.module}/../policies"
  place = {
    partition = local.partition
    bucket    = aws_s3_bucket.vault.bucket
    prefix    = var.prefix
  }
}

resource "aws_s3_bucket" "vault" {
  bucket = var.bucket
  # Versioning comes with it. It can be switched on now or by support later, and never off.
  object_lock_enabled = true
  force_destroy       = false
  tags                = var.tags

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "vault" {
  bucket = aws_s3_bucket.vault.id

  versioning_configuration {
    status = "Enabled"
  }
}

# Object Lock is on by the bucket itself; this is about objects that ask for no lock.
resource "aws_s3_bucket_object_lock_configuration" "vault" {
  count      = var.default_retention_days == null ? 0 : 1
  bucket     = aws_s3_bucket.vault.id
  depends_on = [aws_s3_bucket_versioning.vault]

  rule {
    default_retention {
      mode = var.mode
      days = var.default_retention_days
    }
  }
}

# Whoever puts an object there has no right to it by that.
resource "aws_s3_bucket_ownership_controls" "vault" {
  bucket = aws_s3_bucket.vault.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "vault" {
  bucket                  = aws_s3_bucket.vault.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "vault" {
  bucket = aws_s3_bucket.vault.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
    bucket_key_enabled = var.kms_key_arn != null
  }
}

# Nothing here concerns v1/. The lock keeps its versions anyway, but a rule that expires current ones would put a delete
# marker over each, and verify would rightly call every one of them a finding. What may go at last is retired by
# Casemate, which says so in the node's log first.
resource "aws_s3_bucket_lifecycle_configuration" "vault" {
  bucket     = aws_s3_bucket.vault.id
  depends_on = [aws_s3_bucket_versioning.vault]

  # The locked half of a canary stays a day. Two days after it was put it is hidden, a day later it goes.
  rule {
    id     = "canaries-expire"
    status = "Enabled"

    filter {
      prefix = "${var.prefix}canary/"
    }
    expiration {
      days = 2
    }
    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }

  # What hid it goes as well. S3 takes no rule that says both.
  rule {
    id     = "markers-of-canaries-expire"
    status = "Enabled"

    filter {
      prefix = "${var.prefix}canary/"
    }
    expiration {
      expired_object_delete_marker = true
    }
  }

  # Casemate never uploads in parts, and the bucket's policy refuses parts. Parts cannot be locked, are no object, and are
  # paid for.
  rule {
    id     = "parts-go"
    status = "Enabled"

    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

resource "aws_s3_bucket_policy" "vault" {
  bucket = aws_s3_bucket.vault.id
  policy = templatefile("${local.policies}/bucket.json", merge(local.place, {
    mode               = var.mode
    retention_min_days = var.retain_days - var.late_days
    retention_max_days = var.retain_days + var.beyond_days
    canary             = aws_iam_role.canary.arn
    keeper             = aws_iam_role.keeper.arn
    # The ARNs hold neither quotes nor backslashes: their variable is checked for that.
    break_glass = join("\", \"", var.break_glass_principals)
  }))

  # From here on only break_glass_principals can change the bucket, so it comes last.
  depends_on = [
    aws_s3_bucket_lifecycle_configuration.vault,
    aws_s3_bucket_metric.evidence,
    aws_s3_bucket_metric.node,
    aws_s3_bucket_notification.vault,
    aws_s3_bucket_object_lock_configuration.vault,
    aws_s3_bucket_ownership_controls.vault,
    aws_s3_bucket_public_access_block.vault,
    aws_s3_bucket_server_side_encryption_configuration.vault,
    aws_s3_bucket_versioning.vault,
  ]

  lifecycle {
    precondition {
      condition = anytrue([
        for arn in var.break_glass_principals :
        can(regex("^${replace(replace(replace(arn, ".", "\\."), "+", "\\+"), "*", ".*")}$", data.aws_iam_session_context.applying.issuer_arn))
      ])
      error_message = "Whoever applies this is none of break_glass_principals, and would lock themselves out of the bucket."
    }
  }
}
