variable "name" {
  description = "What everything that is made here begins with, roles and alarms included."
  type        = string
  default     = "casemate"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "Up to 31 lower-case letters, digits and -, a letter first."
  }
}

variable "bucket" {
  description = "The bucket's name. Recordings and nothing else should lie in it: its rules hold for everything."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket's name has 3 to 63 lower-case letters, digits, . and -."
  }
}

variable "prefix" {
  description = "What stands before every name in the bucket, as prefix in casemate.toml. Empty, or ending in /."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([a-z0-9_.-]+/)*$", var.prefix))
    error_message = "Lower-case letters, digits, _ . and -, parted by / and ending in one."
  }
}

variable "mode" {
  description = "The lock. COMPLIANCE binds everybody, the account's owner included, until the day comes. GOVERNANCE is for trying things out: break_glass_principals can get around it."
  type        = string
  default     = "COMPLIANCE"

  validation {
    condition     = contains(["COMPLIANCE", "GOVERNANCE"], var.mode)
    error_message = "COMPLIANCE or GOVERNANCE."
  }
}

variable "retain_days" {
  description = "What retain under [vault] in casemate.toml says, in days."
  type        = number
  default     = 400

  validation {
    condition     = var.retain_days >= 1 && var.retain_days <= 36500 && floor(var.retain_days) == var.retain_days
    error_message = "Whole days, 1 to 36500."
  }
}

variable "late_days" {
  description = "How late a recording may arrive. A lock ends retain_days after its session began, so what waited on a bastion for so long is locked for so much less; what comes later still is refused, and stays on the bastion until this is raised. A session's own length counts as well."
  type        = number
  default     = 60

  validation {
    condition     = var.late_days >= 0 && var.late_days < var.retain_days && floor(var.late_days) == var.late_days
    error_message = "Whole days, fewer than retain_days."
  }
}

variable "beyond_days" {
  description = "How much longer than retain_days a lock may last. Casemate locks the node's log until the end of the next day, so at least 3. Without a bound, stolen credentials of the writer could make the account pay for a hundred years."
  type        = number
  default     = 10

  validation {
    condition     = var.beyond_days >= 3 && floor(var.beyond_days) == var.beyond_days
    error_message = "Whole days, at least 3."
  }
}

variable "default_retention_days" {
  description = "A lock for whatever asks for none. Casemate asks for its own each time; with a default the canary's unlocked twin is locked too, and `casemate vault check` can no longer show what the lock alone prevents. null: no default."
  type        = number
  default     = null

  validation {
    condition     = var.default_retention_days == null ? true : var.default_retention_days >= 1
    error_message = "At least a day, or null."
  }
}

variable "break_glass_principals" {
  description = "ARNs of the roles and users who alone may change the bucket, and besides the keeper delete what is not locked any more, set and lift legal holds: whoever applies this module among them, nobody's daily role. * stands for any characters, as in the path of a role of IAM Identity Center. If nobody can act as one of them any more, only the account's root user can put the policy right."
  type        = list(string)

  validation {
    condition = length(var.break_glass_principals) > 0 && alltrue([
      for arn in var.break_glass_principals : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(root|(role|user)/[A-Za-z0-9+=,.@_/*-]*[A-Za-z0-9][A-Za-z0-9+=,.@_/*-]*)$", arn))
    ])
    error_message = "At least one ARN of a role or user with its account, such as arn:aws:iam::111122223333:role/break-glass."
  }
}

variable "writer_principals" {
  description = "ARNs that may become the writer, and the canary: the roles or users that the bastions run as, in this account or another. They must not be able to change IAM here."
  type        = list(string)

  validation {
    condition     = length(var.writer_principals) > 0 && alltrue([for arn in var.writer_principals : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/[^*]+$", arn))])
    error_message = "At least one ARN of a role or user, without *."
  }
}

variable "reader_principals" {
  description = "ARNs that may become the reader: auditors, and the machine that verifies."
  type        = list(string)

  validation {
    condition     = length(var.reader_principals) > 0 && alltrue([for arn in var.reader_principals : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/[^*]+$", arn))])
    error_message = "At least one ARN of a role or user, without *."
  }
}

variable "keeper_principals" {
  description = "ARNs that may become the keeper: whoever runs casemate-replay enforce, from a machine that is no bastion. They should be none of writer_principals."
  type        = list(string)

  validation {
    condition     = length(var.keeper_principals) > 0 && alltrue([for arn in var.keeper_principals : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/[^*]+$", arn))])
    error_message = "At least one ARN of a role or user, without *."
  }
}

variable "budget_action_roles" {
  description = "Names of the roles that AWS Budgets runs its actions with in this account. They are denied everything that would silence the alarms."
  type        = set(string)
  default     = []
}

variable "kms_key_arn" {
  description = "The key that the bucket encrypts with; S3's own keys where null. Its key policy must let IAM policies of this account count."
  type        = string
  default     = null
}

variable "storage_class" {
  description = "What casemate.toml asks for. Decided at the upload: objects that are moved later are paid for twice."
  type        = string
  default     = "STANDARD_IA"

  validation {
    condition     = contains(["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"], var.storage_class)
    error_message = "A class whose objects can be read at once: Casemate reads back what it put."
  }
}

variable "nodes" {
  description = "The names of the bastions that ship here, as node in casemate.toml: each has an alarm of its own for its silence."
  type        = set(string)

  validation {
    condition     = length(var.nodes) > 0 && alltrue([for node in var.nodes : can(regex("^[a-z0-9][a-z0-9.-]{0,50}$", node))])
    error_message = "At least one name of lower-case letters, digits, . and -, of up to 51 characters."
  }
}

variable "heartbeat_minutes" {
  description = "After so many minutes without a checkpoint a node is silent. One comes every minute; S3's figures come late."
  type        = number
  default     = 15

  validation {
    condition     = var.heartbeat_minutes >= 5 && var.heartbeat_minutes <= 1440
    error_message = "5 to 1440."
  }
}

variable "alarm_emails" {
  description = "Who is told. Each must confirm once. Others can subscribe to the topic that is an output."
  type        = set(string)
  default     = []
}

variable "trail" {
  description = "Whether to make a trail of attempts to delete and to change settings, with a bucket of its own. Without it a trail of the organisation must log management events and S3 data events of the bucket, or the rules about attempts hear nothing."
  type        = bool
  default     = true
}

variable "trail_days" {
  description = "How long the trail is kept."
  type        = number
  default     = 400
}

variable "tags" {
  description = "Tags for everything that takes them."
  type        = map(string)
  default     = {}
}
