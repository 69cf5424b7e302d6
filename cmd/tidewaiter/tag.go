package main

import (
	"slices"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// withTag adds to v what clients are told who ask for it by the tag in reference, if there is one.
func (in *instance) withTag(v gate.Verdict, reference string) gate.Verdict {
	ref, err := oci.ParseReference(reference, in.config.DefaultUpstream, in.hosted.Hosts)
	if err != nil || ref.Digest != "" {
		return v // it was parsed before; by digest there is no tag
	}
	return joinedByTag(v, in.gate.JudgeTag(v.Candidate(), ref.Tag))
}

// joinedByTag returns v, the verdict on an image, with that on the tag it is asked for by: both must allow.
func joinedByTag(v, tag gate.Verdict) gate.Verdict {
	if !tag.Allowed() {
		v.Decision = gate.Deny
	}
	v.Reasons = slices.Concat(tag.Reasons, v.Reasons)
	v.Warnings = slices.Concat(tag.Warnings, v.Warnings)
	v.Waived = slices.Concat(tag.Waived, v.Waived)
	if tag.Until.Before(v.Until) {
		v.Until = tag.Until
	}
	return v
}
