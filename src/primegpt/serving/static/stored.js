// What this browser keeps for the page, where it keeps anything: one that is told to keep nothing throws at each question.

export function stored(key, where = "localStorage") {
  try {
    return window[where].getItem(key);
  } catch {
    return null;
  }
}

// Whether it was kept.
export function store(key, value, where = "localStorage") {
  try {
    window[where].setItem(key, value);
    return true;
  } catch {
    return false;
  }
}

export function drop(key) {
  try {
    localStorage.removeItem(key);
  } catch {
    // there is nothing to drop
  }
}
