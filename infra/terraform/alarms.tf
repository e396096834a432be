# What somebody has to be told. Three ways that do not hang together, so that losing one does not lose the alarm:
#   S3's own events      an object was deleted, or a delete marker put over one
#   CloudTrail           somebody tried, refused or not; a setting was touched, of the bucket or of the alarms
#   S3's request figures DELETE requests where there are none, a wave of refusals, a node that fell silent
# Nothing in between is an IAM role: EventBridge and CloudWatch publish as services, by the topic's own policy.

locals {
  attempts_on_objects = [
    "DeleteObject",
    "DeleteObjects",
    "PutObjectAcl",
    "PutObjectLegalHold",
    "PutObjectRetention",
  ]

  # Names as CloudTrail writes them, which are not always those of the rights.
  changes_of_settings = [
    "DeleteBucket",
    "DeleteBucketEncryption",
    "DeleteBucketLifecycle",
    "DeleteBucketMetricsConfiguration",
    "DeleteBucketOwnershipControls",
    "DeleteBucketPolicy",
    "DeleteBucketPublicAccessBlock",
    "PutBucketAcl",
    "PutBucketEncryption",
    "PutBucketLifecycle",
    "PutBucketLifecycleConfiguration",
    "PutBucketMetricsConfiguration",
    "PutBucketNotification",
    "PutBucketNotificationConfiguration",
    "PutBucketObjectLockConfiguration",
    "PutBucketOwnershipControls",
    "PutBucketPolicy",
    "PutBucketPublicAccessBlock",
    "PutBucketReplication",
    "PutBucketVersioning",
    "PutObjectLockConfiguration",
  ]

  not_a_canary = [{ "anything-but" = { prefix = "${var.prefix}canary/" } }]

  # Casemate asks to keep an object longer where a server forgot its lock, and Amazon's does not; the canary deletes under
  # canary/ and the writer shows there that it may not. Everything else of this is somebody else's doing.
  patterns = {
    deleted = {
      what = "An object was deleted, or a delete marker put over it"
      pattern = {
        source        = ["aws.s3"]
        "detail-type" = ["Object Deleted"]
        detail = {
          bucket = { name = [var.bucket] }
          object = { key = local.not_a_canary }
        }
      }
    }
    attempts = {
      what = "Somebody tried to delete an object, or to change its lock or its legal hold"
      pattern = {
        source        = ["aws.s3"]
        "detail-type" = ["AWS API Call via CloudTrail"]
        detail = {
          eventSource       = ["s3.amazonaws.com"]
          eventName         = local.attempts_on_objects
          requestParameters = { bucketName = [var.bucket], key = local.not_a_canary }
        }
      }
    }
    # Such a request names its objects in the body, so that no pattern can tell whose they are.
    many = {
      what = "Somebody tried to delete many objects at once"
      pattern = {
        source        = ["aws.s3"]
        "detail-type" = ["AWS API Call via CloudTrail"]
        detail = {
          eventSource       = ["s3.amazonaws.com"]
          eventName         = ["DeleteObjects"]
          requestParameters = { bucketName = [var.bucket] }
        }
      }
    }
    settings = {
      what = "Somebody touched a setting of the bucket"
      pattern = {
        source        = ["aws.s3"]
        "detail-type" = ["AWS API Call via CloudTrail"]
        detail = {
          eventSource       = ["s3.amazonaws.com"]
          eventName         = local.changes_of_settings
          requestParameters = { bucketName = [var.bucket] }
        }
      }
    }
    # An alarm that is switched off by somebody who may is at least the last thing that is told. Of the whole account, since each
    # service names what was touched in its own way; in an account for recordings alone that is little.
    silenced = {
      what = "Somebody touched an alarm, a rule, a topic or a trail"
      pattern = {
        source        = ["aws.cloudtrail", "aws.events", "aws.monitoring", "aws.sns"]
        "detail-type" = ["AWS API Call via CloudTrail"]
        detail = {
          eventSource = ["cloudtrail.amazonaws.com", "events.amazonaws.com", "monitoring.amazonaws.com", "sns.amazonaws.com"]
          eventName = [
            "DeleteAlarms",
            "DeleteRule",
            "DeleteTopic",
            "DeleteTrail",
            "DisableAlarmActions",
            "DisableRule",
            "PutAlarmMuteRule",
            "PutEventSelectors",
            "PutMetricAlarm",
            "PutRule",
            "RemoveTargets",
            "SetAlarmState",
            "SetTopicAttributes",
            "StopLogging",
            "Unsubscribe",
            "UpdateTrail",
          ]
        }
      }
    }
  }
}

resource "aws_sns_topic" "alarms" {
  name = "${var.name}-alarms"
  # Messages carry names of objects and of whoever asked, nothing recorded. A key of one's own here would be one more thing
  # that can be taken away from the alarm.
  tags = var.tags
}

resource "aws_sns_topic_subscription" "email" {
  for_each  = var.alarm_emails
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

data "aws_iam_policy_document" "alarms" {
  statement {
    sid       = "AlarmsTell"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }

  # Without a condition: for a long time EventBridge met none in a topic's policy, and an alarm too many, by a rule of somebody
  # else's, is better than one that never comes.
  statement {
    sid       = "RulesTell"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
  }

  # A topic has a policy of its own, which no policy of IAM outweighs.
  statement {
    sid       = "TheTopicStays"
    effect    = "Deny"
    actions   = ["sns:AddPermission", "sns:DeleteTopic", "sns:RemovePermission", "sns:SetTopicAttributes"]
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }
    condition {
      test     = "ArnNotLike"
      variable = "aws:PrincipalArn"
      values   = var.break_glass_principals
    }
  }
}

resource "aws_sns_topic_policy" "alarms" {
  arn    = aws_sns_topic.alarms.arn
  policy = data.aws_iam_policy_document.alarms.json
}

# S3 tells EventBridge of every object that comes or goes.
resource "aws_s3_bucket_notification" "vault" {
  bucket      = aws_s3_bucket.vault.id
  eventbridge = true
}

resource "aws_cloudwatch_event_rule" "alarm" {
  for_each      = local.patterns
  name          = "${var.name}-${each.key}"
  description   = each.value.what
  event_pattern = jsonencode(each.value.pattern)
  tags          = var.tags
}

resource "aws_cloudwatch_event_target" "alarm" {
  for_each = local.patterns
  rule     = aws_cloudwatch_event_rule.alarm[each.key].name
  arn      = aws_sns_topic.alarms.arn
}

resource "aws_s3_bucket_metric" "evidence" {
  bucket = aws_s3_bucket.vault.id
  name   = "evidence"

  filter {
    prefix = "${var.prefix}v1/"
  }
}

resource "aws_s3_bucket_metric" "node" {
  for_each = var.nodes
  bucket   = aws_s3_bucket.vault.id
  name     = "node-${each.value}"

  filter {
    prefix = "${var.prefix}v1/log/${each.value}/cp/"
  }
}

resource "aws_cloudwatch_metric_alarm" "deletes" {
  alarm_name          = "${var.name}-deletes"
  alarm_description   = "Somebody sends DELETE requests for recordings in ${var.bucket}"
  namespace           = "AWS/S3"
  metric_name         = "DeleteRequests"
  dimensions          = { BucketName = var.bucket, FilterId = aws_s3_bucket_metric.evidence.name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "refusals" {
  alarm_name          = "${var.name}-refusals"
  alarm_description   = "Many requests for recordings in ${var.bucket} are refused: a policy, a lost right, or somebody who looks around"
  namespace           = "AWS/S3"
  metric_name         = "4xxErrors"
  dimensions          = { BucketName = var.bucket, FilterId = aws_s3_bucket_metric.evidence.name }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 2
  comparison_operator = "GreaterThanThreshold"
  # After a lost answer a bastion asks for a name that is taken, and is told so.
  threshold          = 20
  treat_missing_data = "notBreaching"
  alarm_actions      = [aws_sns_topic.alarms.arn]
  tags               = var.tags
}

# A node puts a checkpoint every minute, also when nobody works. Refused ones count as well, which the alarm above and the
# node's own figures show.
resource "aws_cloudwatch_metric_alarm" "silence" {
  for_each            = var.nodes
  alarm_name          = "${var.name}-silence-${each.value}"
  alarm_description   = "${each.value} has put no checkpoint into ${var.bucket} for ${var.heartbeat_minutes} minutes"
  namespace           = "AWS/S3"
  metric_name         = "PutRequests"
  dimensions          = { BucketName = var.bucket, FilterId = aws_s3_bucket_metric.node[each.value].name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = var.heartbeat_minutes
  datapoints_to_alarm = var.heartbeat_minutes
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  # No figure is what silence looks like.
  treat_missing_data = "breaching"
  alarm_actions      = [aws_sns_topic.alarms.arn]
  ok_actions         = [aws_sns_topic.alarms.arn]
  tags               = var.tags
}
