# Who may do what. The bastion's credentials can add to the vault and can take nothing from it; so can whoever steals them.

data "aws_iam_policy_document" "becomes_writer" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = var.writer_principals
    }
  }
}

data "aws_iam_policy_document" "becomes_reader" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = var.reader_principals
    }
  }
}

data "aws_iam_policy_document" "becomes_keeper" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = var.keeper_principals
    }
  }
}

resource "aws_iam_role" "writer" {
  name               = "${var.name}-writer"
  description        = "Puts locked recordings into ${var.bucket} and reads them back; deletes nothing"
  assume_role_policy = data.aws_iam_policy_document.becomes_writer.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "writer" {
  name   = "writer"
  role   = aws_iam_role.writer.id
  policy = templatefile("${local.policies}/writer.json", local.place)
}

# Its refusals prove the lock only because it may delete what is not locked. It can do so under canary/ and nowhere else.
resource "aws_iam_role" "canary" {
  name               = "${var.name}-canary"
  description        = "Tries to delete what it put under canary/ of ${var.bucket}, to show that locks hold"
  assume_role_policy = data.aws_iam_policy_document.becomes_writer.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "canary" {
  name   = "canary"
  role   = aws_iam_role.canary.id
  policy = templatefile("${local.policies}/canary.json", local.place)
}

resource "aws_iam_role" "reader" {
  name               = "${var.name}-reader"
  description        = "Lists and reads every version in ${var.bucket}; changes nothing"
  assume_role_policy = data.aws_iam_policy_document.becomes_reader.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "reader" {
  name   = "reader"
  role   = aws_iam_role.reader.id
  policy = templatefile("${local.policies}/reader.json", local.place)
}

# Does what the nodes' logs order: holds, and deletes what was retired and no lock keeps any more. Not from a bastion.
resource "aws_iam_role" "keeper" {
  name               = "${var.name}-keeper"
  description        = "Sets and lifts legal holds in ${var.bucket}, and deletes transcripts whose lock has ended"
  assume_role_policy = data.aws_iam_policy_document.becomes_keeper.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "keeper" {
  name   = "keeper"
  role   = aws_iam_role.keeper.id
  policy = templatefile("${local.policies}/keeper.json", local.place)
}

# With a key of one's own, S3 asks for a right to it besides.
resource "aws_iam_role_policy" "key" {
  for_each = { for who, right in {
    writer = { role = aws_iam_role.writer.id, actions = ["kms:GenerateDataKey", "kms:Decrypt"] }
    canary = { role = aws_iam_role.canary.id, actions = ["kms:GenerateDataKey"] }
    reader = { role = aws_iam_role.reader.id, actions = ["kms:Decrypt"] }
    keeper = { role = aws_iam_role.keeper.id, actions = ["kms:Decrypt"] }
  } : who => right if var.kms_key_arn != null }

  name = "key"
  role = each.value.role
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = each.value.actions
      Resource = [var.kms_key_arn]
      # By way of S3, and of no other service.
      Condition = { StringEquals = { "kms:ViaService" = "s3.${local.region}.amazonaws.com" } }
    }]
  })
}
