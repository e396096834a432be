# Attempts: a trail of who tried to delete, to lift or shorten a lock, or to change a setting, refused or not. Uploads and
# reads are left out of it, so it costs next to nothing.

locals {
  trail        = "${var.name}-trail"
  trail_bucket = "${substr(var.bucket, 0, 57)}-trail"
  trail_arn    = "arn:${local.partition}:cloudtrail:${local.region}:${local.account}:trail/${local.trail}"
}

resource "aws_s3_bucket" "trail" {
  count  = var.trail ? 1 : 0
  bucket = local.trail_bucket
  tags   = var.tags

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_public_access_block" "trail" {
  count                   = var.trail ? 1 : 0
  bucket                  = aws_s3_bucket.trail[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "trail" {
  count  = var.trail ? 1 : 0
  bucket = aws_s3_bucket.trail[0].id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "trail" {
  count      = var.trail ? 1 : 0
  bucket     = aws_s3_bucket.trail[0].id
  depends_on = [aws_s3_bucket_versioning.trail]

  rule {
    id     = "old-events-expire"
    status = "Enabled"

    filter {}
    expiration {
      days = var.trail_days
    }
    noncurrent_version_expiration {
      noncurrent_days = 30
    }
  }
}

data "aws_iam_policy_document" "trail" {
  statement {
    sid       = "TheTrailLooks"
    actions   = ["s3:GetBucketAcl"]
    resources = ["arn:${local.partition}:s3:::${local.trail_bucket}"]

    principals {
      type        = "Service"
      identifiers = ["cloudtrail.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceArn"
      values   = [local.trail_arn]
    }
  }

  statement {
    sid       = "TheTrailWrites"
    actions   = ["s3:PutObject"]
    resources = ["arn:${local.partition}:s3:::${local.trail_bucket}/AWSLogs/${local.account}/*"]

    principals {
      type        = "Service"
      identifiers = ["cloudtrail.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceArn"
      values   = [local.trail_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "s3:x-amz-acl"
      values   = ["bucket-owner-full-control"]
    }
  }

  statement {
    sid       = "OnlyByTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = ["arn:${local.partition}:s3:::${local.trail_bucket}", "arn:${local.partition}:s3:::${local.trail_bucket}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "trail" {
  count      = var.trail ? 1 : 0
  bucket     = aws_s3_bucket.trail[0].id
  policy     = data.aws_iam_policy_document.trail.json
  depends_on = [aws_s3_bucket_public_access_block.trail]
}

resource "aws_cloudtrail" "attempts" {
  count                      = var.trail ? 1 : 0
  name                       = local.trail
  s3_bucket_name             = aws_s3_bucket.trail[0].id
  enable_log_file_validation = true
  tags                       = var.tags
  depends_on                 = [aws_s3_bucket_policy.trail]

  advanced_event_selector {
    name = "Attempts on objects"

    field_selector {
      field  = "eventCategory"
      equals = ["Data"]
    }
    field_selector {
      field  = "resources.type"
      equals = ["AWS::S3::Object"]
    }
    field_selector {
      field       = "resources.ARN"
      starts_with = ["${aws_s3_bucket.vault.arn}/"]
    }
    field_selector {
      field  = "eventName"
      equals = local.attempts_on_objects
    }
  }

  advanced_event_selector {
    name = "Changes of settings, here and of what tells about them"

    field_selector {
      field  = "eventCategory"
      equals = ["Management"]
    }
    field_selector {
      field  = "readOnly"
      equals = ["false"]
    }
  }
}
