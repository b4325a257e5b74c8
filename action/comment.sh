#!/usr/bin/env bash
# Write a file as a comment on a pull request, in place of the one that an earlier run wrote, which begins with the
# same line:
#
#   action/comment.sh OWNER/REPOSITORY NUMBER FILE
#
# It needs GitHub's `gh`, and a GH_TOKEN that may write on pull requests; the token for one from a fork may not.
set -euo pipefail
repository=$1 number=$2 file=$3
mark=$(sed -n 1p "$file")
own='.[] | select(.user.type == "Bot") | select(.body | startswith("'$mark'")) | .id'

write() {
  local found
  found=$(gh api --paginate "repos/$repository/issues/$number/comments" --jq "$own") || return
  if [ -n "$found" ]; then
    gh api --silent --method PATCH "repos/$repository/issues/comments/${found%%$'\n'*}" -F "body=@$file"
  else
    gh api --silent --method POST "repos/$repository/issues/$number/comments" -F "body=@$file"
  fi
}

write || echo "::warning::the comment could not be written: the job needs the permission pull-requests: write"
