"""Questions about a scene and their answers: fifteen families, shared by written and spoken tasks.

``ask`` asks about a scene that you have; ``mmenv.worlds.samples`` draws a scene with a question. A family is one or
more forms (``forms.Form``): a function that looks for something to ask, and the phrasings that put it in words. To add
one, write the function, add its ``Form`` to its file's ``FORMS``, its name to ``families.FAMILIES``, and how it is
answered to ``mmenv.worlds.solver``.
"""

from mmenv.worlds.questions.families import FAMILIES, FORMS, HARD_FAMILIES, ask, families, forms_of, write
from mmenv.worlds.questions.forms import Draw, Form, Question

__all__ = ["FAMILIES", "FORMS", "HARD_FAMILIES", "Draw", "Form", "Question", "ask", "families", "forms_of", "write"]
