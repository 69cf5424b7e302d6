package policy

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tidewaiter/tidewaiter/gate"
)

// written maps rules to the keys of a policy that ask for them. A rule that holds without being written may be missing from a file.
var written = map[gate.Rule]string{
	gate.RuleSignatures: "require.signatures", gate.RuleAttestations: "require.attestations",
	gate.RuleVulnerabilities: "vulnerabilities.deny_at", gate.RuleDenyList: "vulnerabilities.deny",
	gate.RulePackages: "packages.deny", gate.RuleLicenses: "licenses", gate.RuleEndOfLife: "os.deny_end_of_life", gate.RuleOS: "os.allow",
	gate.RuleMalware: "malware", gate.RuleSecrets: "secrets", gate.RuleMinAge: "min_age", gate.RuleCEL: "cel", gate.RuleGap: "gaps.tolerate",
	gate.RuleSize: "image.max_bytes", gate.RuleForeignLayers: "image.deny_foreign_layers", gate.RuleHostileConfig: "image.deny_hostile_config",
	gate.RuleRootUser: "image.deny_root_user", gate.RuleLabels: "image.require_labels", gate.RuleBaseAge: "image.max_base_age",
}

// ruleLines returns, for each rule that the policy v asks for, the line of the key that does.
func ruleLines(v value) map[gate.Rule]int {
	lines := map[gate.Rule]int{}
	for rule, keys := range written {
		if line := lineOf(v.node, strings.Split(keys, ".")); line > 0 {
			lines[rule] = line
		}
	}
	return lines
}

// lineOf returns the line of a key within mappings within n; 0 if it is not there.
func lineOf(n *yaml.Node, keys []string) int {
	if n.Kind != yaml.MappingNode {
		return 0
	}
	for pair := range slices.Chunk(n.Content, 2) {
		if len(pair) < 2 || pair[0].Value != keys[0] {
			continue
		}
		if len(keys) == 1 {
			return pair[0].Line
		}
		return lineOf(pair[1], keys[1:])
	}
	return 0
}
