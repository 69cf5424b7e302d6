package gate

import (
	"fmt"
	"slices"
)

// place notes in each reason of v where p asks for what the reason is about.
func (v *Verdict) place(p Policy) {
	for _, reasons := range []*[]Reason{&v.Reasons, &v.Warnings, &v.Waived, &v.Excused} {
		*reasons = slices.Clone(*reasons)
		for i, r := range *reasons {
			(*reasons)[i].Line = p.Lines[r.Rule]
		}
	}
}

// Place says, for a person, which rule of which policy r is of and where that is written: "production (policy.yaml:12)". A rule that holds
// without being written stands where its policy does. It is empty where no policy matches.
func (v Verdict) Place(r Reason) string {
	line := r.Line
	if line == 0 {
		line = v.Line
	}
	if v.File == "" || line == 0 {
		return v.Policy
	}
	return fmt.Sprintf("%s (%s:%d)", v.Policy, v.File, line)
}
