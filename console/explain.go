package console

import (
	"fmt"
	"regexp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Explanation is a reason with where it is asked for and what would set it aside.
type Explanation struct {
	Rule    gate.Rule `json:"rule"`
	Message string    `json:"message"`
	// Place is the policy and where it asks for the rule: "production (policy.yaml:12)"; empty where no policy matches.
	Place string `json:"place,omitempty"`
	// Remedies are sentences for a person, the best first; may be empty.
	Remedies []string `json:"remedies,omitempty"`
	// Waive is the command that asks for a waiver of this reason for this image; empty where none is possible. What an image's author wrote
	// is in it only where a shell takes it for a word.
	Waive string `json:"waive,omitempty"`
}

// Explain explains why v denies, or would.
func Explain(v gate.Verdict) []Explanation {
	reasons := v.Reasons
	if v.Allowed() {
		reasons = v.Warnings
	}
	var all []Explanation
	for _, r := range reasons {
		all = append(all, Explanation{Rule: r.Rule, Message: r.Message, Place: v.Place(r), Remedies: remedies(v, r), Waive: waiveCommand(v, r)})
	}
	return all
}

// ways says what can be done about reasons of a rule beside waiving them.
var ways = map[gate.Rule]string{
	gate.RuleMatch:         "have a policy match the repository",
	gate.RuleSignatures:    "have the image signed by those it names; it is looked for again within a minute",
	gate.RuleAttestations:  "have it attested by those it names; it is looked for again within a minute",
	gate.RulePackages:      "remove the package or take another version of it",
	gate.RuleLicenses:      "remove the package",
	gate.RuleEndOfLife:     "build upon a release of the distribution that is still mended",
	gate.RuleOS:            "build upon a distribution that the policy allows",
	gate.RuleMalware:       "find out how the file came into the image",
	gate.RuleSecrets:       "withdraw the credential where it is valid, then build the image without it: removing it in a later layer leaves it in",
	gate.RuleHostileConfig: "build the image without the value",
	gate.RuleRootUser:      "set a user in the image",
	gate.RuleLabels:        "set the label in the image",
	gate.RuleBaseAge:       "build the image anew upon a newer base",
	gate.RuleForeignLayers: "push the image with its layers",
	gate.RuleSize:          "make the image smaller",
	gate.RuleMinAge:        "wait",
	gate.RuleGap:           "have the policy tolerate gaps of its kind (gaps.tolerate), if nothing can be hidden there",
	gate.RuleUnexamined:    "settle the other reasons: its layers are looked into then",
}

func remedies(v gate.Verdict, r gate.Reason) []string {
	if f := r.Finding; f != nil && f.FixedVersion != "" {
		return []string{fmt.Sprintf("update %s from %s to %s or later", f.Package.Name, f.Package.Version, f.FixedVersion)}
	} else if f != nil {
		return []string{"there is no version without it yet; take the package out, or have it waived"}
	}
	if way, ok := ways[r.Rule]; ok {
		return []string{way}
	}
	return nil
}

// word is what a shell takes for one word, whatever else it holds.
var word = regexp.MustCompile(`\A[A-Za-z0-9_@%+=:,./~-]+\z`)

// waivedFor is for how long a waiver is suggested: long enough to mend an image, and no longer.
const waivedFor = "168h"

func waiveCommand(v gate.Verdict, r gate.Reason) string {
	repo := v.Repository.String()
	if !word.MatchString(repo) || r.Rule == gate.RuleMatch || r.Rule == gate.RuleUnexamined {
		return ""
	}
	what := "--rule " + string(r.Rule)
	if f := r.Finding; f != nil {
		if !word.MatchString(f.ID) {
			return ""
		}
		what = "--vulnerability " + f.ID
		if name := f.Package.Type + "/" + f.Package.Name; word.MatchString(name) {
			what += " --package " + name
		}
	}
	return fmt.Sprintf("tidewaiter waiver grant %s --repository %s --digest %s --for %s --reason WHY", what, repo, v.Digest, waivedFor)
}
