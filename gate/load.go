package gate

// Load is how much there is to do now.
type Load struct {
	// Judgings are under way, for whoever waits and for nobody; Ahead are those of them nobody waits for.
	Judgings, Ahead int
	// Layers are being read, by at most Workers at once.
	Layers, Workers int
}

// Load returns how much there is to do now.
func (g *Gate) Load() Load {
	l := Load{Ahead: len(g.started), Layers: len(g.workers), Workers: cap(g.workers)}
	g.steps.Range(func(any, any) bool {
		l.Judgings++
		return true
	})
	return l
}
