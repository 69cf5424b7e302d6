package proxy

import (
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// judgeTag returns what a policy warns of the tag q asks for; empty for nothing, and for what is asked for by digest. It comes before any
// verdict on what the tag stands for: by digest the client may have that all the same, so a HEAD is refused as a GET is.
//
// The tags under which signatures are kept are names of digests, which nobody chose.
//
// Errors: an oci.Error of code DENIED when the policy denies the tag.
func (p *Proxy) judgeTag(c gate.Candidate, q oci.Request) (warning string, err error) {
	if _, isEvidence := oci.ParseEvidenceTag(q.Tag); q.Tag == "" || isEvidence {
		return "", nil
	}
	v := p.o.Judge.JudgeTag(c, q.Tag)
	if !v.Allowed() {
		return "", p.denial(c, v, "")
	}
	return v.WarningSummary(), nil
}

// warned is m with a warning more.
func (m manifest) warned(warning string) manifest {
	if warning != "" && m.warning != "" {
		warning = strings.Join([]string{warning, m.warning}, "; ")
	}
	if warning != "" {
		m.warning = warning
	}
	return m
}
